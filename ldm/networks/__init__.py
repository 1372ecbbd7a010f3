"""The networks that LEGO takes over: sizes, attention, text and pixels."""
