"""What tests start for real: a service with its worker, a whole daemon, a broker."""
