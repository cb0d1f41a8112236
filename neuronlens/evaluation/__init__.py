"""What an intervention does to the model's answers, with its uncertainty."""
