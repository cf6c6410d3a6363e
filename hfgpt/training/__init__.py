"""What Trainer lacks, brought in through its own doors."""
