"""What things are called, what they mean and how they are coloured: plain Python for panel, viewer, report, shell."""
