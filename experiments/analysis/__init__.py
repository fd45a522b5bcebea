"""Reads what runs left on disk and draws it; knows no model, no torch and no other module of this project."""
