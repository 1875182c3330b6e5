"""Measuring a student: what it predicts in images of any size, and how often that is right."""
