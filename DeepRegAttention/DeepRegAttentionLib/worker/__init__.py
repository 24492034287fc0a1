"""The process that registers for the panel and the viewer, and how far it is."""
