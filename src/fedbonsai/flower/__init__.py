"""The same run across devices: Flower carries the bytes, a worker on each device does the work."""
