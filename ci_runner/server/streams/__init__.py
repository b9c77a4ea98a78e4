"""Server-Sent Events: sources of events and the response that carries them."""
