"""The families of students: what exists for a kind of teacher, how to build one, how to inherit its weights."""

from search_spaces.registry import Table

FAMILIES = Table("family", {"text_encoder": "search_spaces.families.text_encoder:TextEncoderFamily"})
