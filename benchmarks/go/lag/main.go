// Reads events with containerd's own client: lag SOCKET COUNT
// Prints "live" when it reads, and at the end for each event what it says and when it came (nanoseconds since 1970).
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/containerd/containerd"
	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/typeurl"
)

const (
	settle = 500 * time.Millisecond // containerd never says that a subscription has begun
	idle   = 3 * time.Second        // after it the missing events are lost
)

type arrival struct {
	id string
	at int64
}

func main() {
	count, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	client, err := containerd.New(os.Args[1])
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	events, errors := client.EventService().Subscribe(ctx, `topic=="/bench/event"`)
	time.Sleep(settle)
	fmt.Println("live")
	seen := make([]arrival, 0, count)
	var over <-chan time.Time
	for len(seen) < count {
		select {
		case envelope := <-events:
			event, err := typeurl.UnmarshalAny(envelope.Event)
			if err != nil {
				panic(err)
			}
			seen = append(seen, arrival{event.(*apievents.TaskExit).ContainerID, time.Now().UnixNano()})
			if len(seen)%1000 == 1 {
				over = time.After(idle)
			}
		case err := <-errors:
			panic(err)
		case <-over:
			count = len(seen)
		}
	}
	out := bufio.NewWriter(os.Stdout)
	for _, event := range seen {
		fmt.Fprintln(out, event.id, event.at)
	}
	out.Flush()
}
