"""From an action label to the question that the VLLM is asked."""
