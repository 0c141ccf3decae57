/**
 * Keeps a value for each owner, such as a backend. The value is made at first use and freed with its owner.
 *
 * @returns a function that returns the owner's value
 */
export function keptFor<Owner extends object, Value>(make: (owner: Owner) => Value): (owner: Owner) => Value {
  const values = new WeakMap<Owner, Value>();
  return (owner) => {
    const known = values.get(owner);
    if (known !== undefined) return known;
    const value = make(owner);
    values.set(owner, value);
    return value;
  };
}
