"""The paper's row from what was published: what is released, the steps and their needs. No libraries."""
