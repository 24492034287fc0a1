"""What several tests share: images, scenes, networks, training runs, and where everything lies."""
