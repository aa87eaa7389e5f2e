"""Where and how numbers are computed: devices, cores, number formats, seeds, several processes."""
