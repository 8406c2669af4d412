"""What a unit takes: passes traced without memory, memory in closed form around them, bytes read and written."""
