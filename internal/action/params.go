package action

import (
	"bytes"
	"encoding/json"
	"maps"
)

// Params are the parameters of a task. After Spec.Check every value has the Go type of its parameter; decoding from
// JSON keeps whole numbers exact, so a Number may come back as an int64 and is read the same.
type Params map[string]any

// String gives the value of a String parameter, "" when it was left out.
func (p Params) String(name string) string {
	v, _ := p[name].(string)
	return v
}

// Bool gives the value of a Boolean parameter, false when it was left out.
func (p Params) Bool(name string) bool {
	v, _ := p[name].(bool)
	return v
}

// Int gives the value of an Integer parameter, 0 when it was left out.
func (p Params) Int(name string) int64 {
	v, _ := toInteger(p[name])
	return v
}

// Float gives the value of a Number parameter, 0 when it was left out.
func (p Params) Float(name string) float64 {
	v, _ := toNumber(p[name])
	return v
}

// Has tells whether the parameter has a value, given or by default.
func (p Params) Has(name string) bool {
	_, found := p[name]
	return found
}

// UnmarshalJSON reads a JSON object. Whole numbers become int64, others float64.
func (p *Params) UnmarshalJSON(text []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var raw map[string]any
	if err := decoder.Decode(&raw); err != nil {
		return err
	}
	for name, value := range raw {
		number, isNumber := value.(json.Number)
		if !isNumber {
			continue
		}
		whole, err := number.Int64()
		if err == nil {
			raw[name] = whole
			continue
		}
		if raw[name], err = number.Float64(); err != nil {
			return err
		}
	}
	*p = raw
	return nil
}

func (p Params) clone() Params { return maps.Clone(p) }
