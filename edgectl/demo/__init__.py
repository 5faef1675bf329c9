"""The whole product once, on this computer: broker, daemon, model, and a client that knows only topics."""
