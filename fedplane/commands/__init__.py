"""The commands of ``fedplane``, one module each."""
