"""Models: what a file says of itself, files and the list of the shipped ones, which one suits two images."""
