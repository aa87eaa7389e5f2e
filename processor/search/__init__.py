"""Identification of images, or of a sentence, among enrolled people."""
