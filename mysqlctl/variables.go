package mysqlctl

import (
	"context"
	"database/sql"
	"maps"
	"slices"
	"strings"
)

// While a CREATE USER or GRANT waits for an acknowledgement it holds the lock on the
// cache of privileges, and whoever has to look there waits with it (tried on 9.7):
// every login, every table of a schema that is not the session's own, a dynamic
// privilege, and so each SET GLOBAL and KILL; and performance_schema.global_variables.
// What has to work then must not look: so our sessions are at home in
// performance_schema, our account has SUPER, which is looked for first, and variables
// are read one by one.

// home is the schema of our sessions.
const home = "performance_schema"

// readVariables returns the variables that Status looks at, which are not the same in
// each version, nor without a plugin.
func readVariables(ctx context.Context, c *session) (map[string]bool, error) {
	variables := make(map[string]bool)
	err := readOn(ctx, c, func(rows *sql.Rows) error {
		for rows.Next() {
			var name, value string
			if err := rows.Scan(&name, &value); err != nil {
				return err
			}
			variables[strings.ToLower(name)] = value == "ON" || value == "OFF"
		}
		return nil
	}, "SELECT VARIABLE_NAME, VARIABLE_VALUE FROM performance_schema.global_variables WHERE VARIABLE_NAME IN ("+checkedNames+") OR VARIABLE_NAME LIKE 'rpl_semi_sync%'")
	return variables, err
}

// selectVariables reads them as one row.
func (info serverInfo) selectVariables() string {
	query := "SELECT 'variable' AS kind"
	for _, name := range slices.Sorted(maps.Keys(info.variables)) {
		query += ", @@global." + name + " AS " + name
	}
	return query
}

// addVariables adds that row to have, in the words of SHOW VARIABLES.
func (info serverInfo) addVariables(have map[string]string, rows []row) {
	for _, r := range rows {
		for name, value := range r {
			switch {
			case name == "kind":
				continue
			case info.variables[name] && value == "0":
				value = "OFF"
			case info.variables[name] && value == "1":
				value = "ON"
			}
			have[name] = value
		}
	}
}
