"""Puts the labels or the student of a run on the Hugging Face Hub, each with a card made from the receipts.

contents  the folders that are uploaded
hub       the upload
"""
