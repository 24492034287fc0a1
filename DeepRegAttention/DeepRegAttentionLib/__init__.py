"""DeepRegAttention: attention-driven deformable registration for 3D Slicer, the command line and Python."""

__version__ = "0.1.0"
