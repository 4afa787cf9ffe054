"""What a person sees while a command works, and at its end."""
