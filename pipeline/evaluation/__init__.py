"""What is known of held-out images, means of it by fold, view and group, and what was decided."""
