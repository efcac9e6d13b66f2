"""What an evaluation found: records, their statistics, rankings, the table and the page."""
