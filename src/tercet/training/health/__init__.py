"""What the doctor is told of a training, and when it is asked."""
