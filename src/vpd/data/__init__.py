"""Samples on their way to a batch: what every data set shares."""
