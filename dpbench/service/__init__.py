"""The service under attack: fitting a defense, what the client releases, what the server computes from it."""
