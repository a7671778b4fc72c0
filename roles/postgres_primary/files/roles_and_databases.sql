-- One row. `roles`: those among the wanted names that are there, with the columns of pg_authid that dbops.fleet.role_statements
-- compares. `databases`: statements for those that are missing, or have another owner.
SELECT
  (SELECT coalesce(jsonb_agg(to_jsonb(role)), '[]')
   FROM (SELECT rolname, rolpassword, rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolinherit,
                rolconnlimit
         FROM pg_authid WHERE rolname IN (SELECT jsonb_array_elements_text(%(roles)s::jsonb))) AS role) AS roles,
  (SELECT coalesce(jsonb_agg(CASE WHEN datname IS NULL THEN format('CREATE DATABASE %%I OWNER %%I', name, owner)
                             ELSE format('ALTER DATABASE %%I OWNER TO %%I', name, owner) END), '[]')
   FROM jsonb_to_recordset(%(databases)s::jsonb) AS wanted (name text, owner text)
   LEFT JOIN pg_database ON datname = name
   WHERE datname IS NULL OR pg_get_userbyid(datdba) <> owner) AS databases
