"""The registration engine: two images in, a transform and its explanation out.

Start reading at :func:`DeepRegAttentionLib.engine.registration.register`. This package imports no torch by
itself, so that its plain data types (``options``, ``result``, ``errors``) are usable inside 3D Slicer.
"""
