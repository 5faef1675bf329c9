"""The vocabulary of edged: requests, events, status, configuration and errors."""
