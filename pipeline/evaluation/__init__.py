"""What out-of-fold predictions and a submission are measured by, and shown with."""
