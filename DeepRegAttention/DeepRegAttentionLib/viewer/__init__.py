"""A result in the browser: the scene code of the Slicer panel, on Slicer's own libraries, without Slicer.

A small front process (:mod:`.gate`) lets people in and gives each browser page a process of its own
(:mod:`.page_process`), so that no page sees another's data and one that crashes takes nothing with it.
"""
