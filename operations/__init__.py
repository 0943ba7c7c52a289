"""What is told and watched of running pairs: heartbeats, status, metrics. Shared by the command line and the functions."""
