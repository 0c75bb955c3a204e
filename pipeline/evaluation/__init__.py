"""What is known of out-of-fold predictions: counts, measures, and means by fold, view and group."""
