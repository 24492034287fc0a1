"""The Qt panel inside 3D Slicer. Start reading at :mod:`.panel`; it talks to the worker by messages alone."""
