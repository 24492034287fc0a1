"""Results as MRML nodes: everything that is shown of a registration, in 3D Slicer and in plain Python.

No Qt, no torch, no global scene: each function takes the scene or nodes of it, so that several scenes live side
by side in one process. Start reading at :func:`DeepRegAttentionLib.scene.results.load_result`.
"""
