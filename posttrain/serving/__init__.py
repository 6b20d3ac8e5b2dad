"""An OpenAI-compatible server. Everything here needs the extra `serve`."""
