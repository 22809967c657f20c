// Command isosyncd turns the ISO images of a folder into ISO storage volumes of LXD or Incus.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}
