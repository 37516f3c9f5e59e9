-- Beside the database `cai` of catalog and ledger, which the image of PostgreSQL makes.
CREATE DATABASE dagster;
