"""Predictions and graphs of trained models."""
