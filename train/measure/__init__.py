"""Measuring a student: its predictions for images of any size, and their scores."""
