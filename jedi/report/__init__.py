"""Reports: what they are made of (`document`), as text (`text`), their charts (`charts`) and pages (`page`)."""
