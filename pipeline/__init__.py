"""From a Kaggle segmentation competition's archives to a scored submission."""
