"""What a long run will take (``estimate``), how far it is (``status``), and folders of shards in one (``merge``)."""
