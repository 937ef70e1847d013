-- On both servers: a move copies the schema and the data, not the roles.
CREATE ROLE alice LOGIN PASSWORD 'demo';
ALTER DATABASE app OWNER TO alice;
