"""The two sides behind one port."""
