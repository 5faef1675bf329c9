"""edged: a language model served over MQTT and HTTP inside hard memory limits."""

__version__ = "0.1.0"
