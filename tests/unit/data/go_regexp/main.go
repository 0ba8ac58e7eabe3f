// Prints what Go's regexp makes of expressions: go run main.go < expressions.json > verdicts.json
//
// In: {"subjects": [...], "expressions": [...]}. Out: {"subjects": [...], "verdicts": {expression: [indexes of the
// subjects in which it is found]}}, with null for what does not compile.
package main

import (
	"encoding/json"
	"os"
	"regexp"
)

func main() {
	var in struct{ Subjects, Expressions []string }
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		panic(err)
	}
	verdicts := map[string][]int{}
	for _, text := range in.Expressions {
		expression, err := regexp.Compile(text)
		if err != nil {
			verdicts[text] = nil
			continue
		}
		verdicts[text] = []int{}
		for i, subject := range in.Subjects {
			if expression.MatchString(subject) {
				verdicts[text] = append(verdicts[text], i)
			}
		}
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "")
	out.SetEscapeHTML(false)
	if err := out.Encode(map[string]any{"subjects": in.Subjects, "verdicts": verdicts}); err != nil {
		panic(err)
	}
}
