"""Devices and processes that training runs on."""
