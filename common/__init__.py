"""What publishers, subscribers and brokers share: frames, wire format, topics, codecs, sockets, errors."""
