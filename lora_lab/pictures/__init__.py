"""What the course shows: figures, sliders that answer at once, and the explorers built of both."""
