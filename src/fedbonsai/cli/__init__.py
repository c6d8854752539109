"""The command line. Modules here import torch only inside the commands that need it."""
